"""Receipts in the forms that others read: RobustBench's model_info, the Hub's model-index and .eval_results.

One format a file, each a pure function of a model's config and receipts. Nothing is claimed that no receipt
says.
"""
