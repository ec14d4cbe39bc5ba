"""Files that others read: textual-inversion tokens, prompt-space embeddings, PNG texts.

Tensors are safetensors with provenance as metadata strings; nothing here loads a pickle.
"""

from adjointdpm.formats.fingerprint import fingerprint
from adjointdpm.formats.png import GenerationText, read_png_text, save_png
from adjointdpm.formats.prompt_embedding import PromptEmbedding, apply
from adjointdpm.formats.rows import encode_prompts, lost_words, place_rows, word_rows
from adjointdpm.formats.textual_inversion import TextualInversion

__all__ = [
    "GenerationText",
    "PromptEmbedding",
    "TextualInversion",
    "apply",
    "encode_prompts",
    "fingerprint",
    "lost_words",
    "place_rows",
    "read_png_text",
    "save_png",
    "word_rows",
]
