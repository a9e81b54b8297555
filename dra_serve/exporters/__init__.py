"""Receipts in the forms that the Hub reads: model-index and .eval_results; RobustBench's is in evaluation/.

One format a file, each a pure function of a model's config and receipts. Nothing is claimed that no receipt
says.
"""
