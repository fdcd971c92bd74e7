"""Reads files as rows and lines, each by its own format's rules.

sources      what data.files names: files and TFDS splits, in order
archives     a file as a stream of bytes, decompressed by its suffix
encodings    what bytes are if they are not UTF-8, and how to convert them
rows         a row's values, its place, and what it lacks
tables       CSV, TSV and Parquet, and the JSON formats by suffix
json_rows    one object per line, or an array of objects
conll        tagged sentences in columns
squad        SQuAD's articles of paragraphs of questions
tfds_rows    prepared TFDS datasets, read without TensorFlow
local_paths  paths as people type them, with any character
"""
