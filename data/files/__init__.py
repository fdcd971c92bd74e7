"""Reads files as rows and lines, each by its own format's rules.

sources         what data.files names: files and splits of datasets, in order
specs           how what is no path of this machine begins
local_paths     paths as people type them, with any character
remote_paths    files in remote stores, gs:// and s3://
directories     the text files and tables below a directory
archives        a file as a stream of bytes, decompressed by its suffix
encodings       what bytes are if they are not UTF-8, and how to convert them
rows            a row's values, its place, and what it lacks
bad_rows        bad rows, refused or skipped and counted
tables          CSV and TSV, and the other tables by suffix
json_rows       one object per line, or an array of objects
arrow_tables    Parquet and Arrow tables
conll           tagged sentences in columns
squad           SQuAD's articles of paragraphs of questions
tfds_rows       prepared TFDS datasets, read without TensorFlow
saved_datasets  datasets that Hugging Face's save_to_disk wrote
own_rows        text that a Python file has defined
token_files     token ids: raw, indexed, and .npy
"""
