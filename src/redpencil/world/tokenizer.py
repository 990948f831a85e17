"""A word-level tokenizer for the review world, in Hugging Face layout.

A token is a word with the space before it (" plot"), a word at the start of a text ("The"), or a
mark (","). Tokens joined give the text back exactly, and cutting a text before a space cuts its
tokens: the ids of prompt + completion are the ids of the prompt, then those of the completion.
"""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from redpencil.world.grammar import openers, vocabulary

PAD, BOS, EOS, UNK = "<pad>", "<s>", "</s>", "<unk>"
_PIECE = r" ?[A-Za-z]+|[^A-Za-z]"


def world_vocabulary() -> dict[str, int]:
    """Token -> id: the special tokens, then every word and mark of the grammar, sorted."""
    inside = {word if not word.isalpha() else f" {word}" for word in vocabulary()}
    starts = {word.capitalize() for word in openers()}
    tokens = sorted(inside | starts | {f" {word}" for word in starts})
    return {token: index for index, token in enumerate((PAD, BOS, EOS, UNK, *tokens))}


def world_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer: encoding begins with BOS; EOS is added by who ends a response.

    `decode(ids, skip_special_tokens=True)` gives back exactly the text that was encoded, if all
    its words belong to the grammar; others become "<unk>".
    """
    backend = Tokenizer(models.WordLevel(world_vocabulary(), unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECE), behavior="isolated")
    backend.decoder = decoders.Fuse()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, world_vocabulary()[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
        model_max_length=128,
    )
