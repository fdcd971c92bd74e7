"""What a run measures, and where it writes that.

metrics_file      metrics.jsonl
progress          the lines that a person sees
flops             arithmetic of a step, and the share of the hardware's peak
task_scores       accuracy, F1, BLEU and the like
callbacks         functions of a user's own that follow evaluations
trackers          TensorBoard, Weights & Biases, MLflow, Aim: never in the run's way
tracker_process   the process that a tracker's library runs in
tracker_backends  what each of the four trackers is told
"""
