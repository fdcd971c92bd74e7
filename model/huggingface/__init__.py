"""Models in Hugging Face's format, read and written strictly.

directory        load_huggingface and save_huggingface: read this first
config_reading   from config.json to ModelConfig
family_fit       which family's files can hold a model
files            maps safetensors, shards and .bin files
pickles          reads pytorch_model.bin without running code
prefixes         names that wrappers put before tensors
strict_match     compares a file's tensors with those that a model needs
places           which tensors make up each parameter
loading          fills parameters, each device its own share
export           parameters as tensors, layer by layer
writing          a directory that appears whole or not at all
tokenizer_files  the tokenizer beside the weights
sentence_modules  what files of sentence-transformers say
adapter_export   adapters of LoRA, for PEFT
"""
