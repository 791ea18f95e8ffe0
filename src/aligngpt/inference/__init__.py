"""Batched generation, prompts and chat: one implementation for evaluation, lmms-eval, chat and servers."""
