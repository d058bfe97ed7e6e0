"""Phenaki (2210.02399): a causal video tokenizer, a masked transformer over its tokens, stories."""
