"""One file for each family of models: its config.json and its tensors.

table           the families by model_type
description     what a family's file must say
tensor_names    tensors that several families name the same way
stored_tensors  the layouts that files keep tensors in
bert            BERT
roberta         RoBERTa
modernbert      ModernBERT
gpt2            GPT-2
gpt_neo         GPT-Neo
gpt_neox        GPT-NeoX and Pythia
llama           LLaMA, Mistral, Qwen2 and Qwen3; Mixtral and Qwen3-MoE
llama_settings  their keys of config.json
llama_experts   what the last two add to it
t5              T5 1.0 and 1.1
marian          the original encoder-decoder, as Marian stores it
"""
