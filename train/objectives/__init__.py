"""What is minimised.

table          the objectives, one row each: read this first
losses         sums over a batch, and how they become the loss
by_source      the sums of each source of a mixture
expert_losses  losses that keep experts in use
task_losses    the losses of task heads
preference_losses  DPO's loss of pairs of answers
contrastive_losses  vectors of texts that belong together
cross_entropy  cross-entropy over a vocabulary that may be split over devices
"""
