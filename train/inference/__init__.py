"""What a trained model is used for.

text_model       a run or a Hugging Face directory with its tokenizer
text_generation  text from prompts
gap_filling      words for the gaps of a text
samples          the text that a run shows when it ends
run_evaluation   `flaxmill eval` in Python
other_data       other data, read as a run reads its own
predictions      the answer for each held-out example
task_evaluation  scores, and predictions next to the inputs
"""
