"""A run's directory: how it begins, what it records, and how it leaves.

early_refusals     what is refused before JAX is loaded
seeds              the same experiment under several seeds
mesh_fit           whether an experiment can run on a mesh
directory          made or continued, and never mixed up with another run's
data_card          the card of the data that a run trains on
samples            what the model wrote at the end
lock               one process trains in it, and others see that
summary            how far a run has come, told from its files
source             what a run takes from the model that it starts from
initial_weights    a run's first weights, taken from that model
restoring          where a run starts: its newest whole checkpoint, or fresh weights
provenance         the data, versions and devices that made a checkpoint
bad_batches        batches with a bad loss or gradient
importing          a run from a Hugging Face model
exporting          a Hugging Face model from a run
decoding_settings  how a model decodes, according to its files
token_ids          the special tokens that generation and export use
model_sources      a command's RUN or HF_DIR, checked before JAX is loaded
"""
