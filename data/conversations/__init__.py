"""Conversations: checked, rendered as one text by a tokenizer's chat template, and encoded.

messages       the messages of a row, in the form of OpenAI, of ShareGPT or of Alpaca
rendering      which form a tokenizer gives a conversation, and what of the text the assistant wrote
chat_template  a chat template in Jinja, and where the assistant's turns are in its text
chatml         the plain form of a tokenizer without a template
encoding       the text as tokens, each predicted or not
"""
