"""What a trained model is used for.

loaded_model     the weights of a run or of a Hugging Face directory
text_model       a run or a Hugging Face directory with its tokenizer
text_generation  text from prompts
embedding        texts as vectors
scoring          log-probabilities of texts
model            all of this from Python: Model
encoded_texts    texts as ids, framed and cut
packed_rows      texts of any lengths as few rows of few widths
vector_files     vectors as files
conversation     what was said to a model, and its next answer
gap_filling      words for the gaps of a text
reference        how likely answers were before training on preferences
samples          the text that a run shows when it ends
evaluated        what callbacks of a user's own are given after an evaluation
run_evaluation   `flaxmill eval` in Python
measured_experiment  the experiment that measures a model
other_data       other data, read as a run reads its own
predictions      the answer for each held-out example
row_predictions  answers for rows in memory
task_evaluation  scores, and predictions next to the inputs
"""
