"""The format `transformers`: a tokenizer as a folder that transformers' Auto classes load.

The classes are in `vtp_plugins.transformers`, whose import registers them and imports transformers; this
package imports neither until it writes.
"""
