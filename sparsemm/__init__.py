"""sparsemm: which KV entries of a multimodal LLM to keep, head by head, and what that costs in accuracy."""
