"""Trains the text tokenizer: every word of the replies is one piece of it.

python tokenizer.py            writes WORK/tokenizer.model
"""

import io
import re

from common import TEXT_CARD, WORK, exchanges
from sentences import PLAIN, other


def train():
    import sentencepiece

    known = exchanges()
    replies = [e["reply"] for e in known["exchanges"]] + [known["fallback"]]
    prompts = [p for e in known["exchanges"] for p in e["prompts"]]
    words = sorted({"▁" + w for r in replies for w in re.findall(r"[A-Za-z]+", r)})
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(replies + prompts + PLAIN + [t for t, _ in other("train")]),
        model_writer=model,
        vocab_size=TEXT_CARD,
        model_type="unigram",
        normalization_rule_name="identity",
        user_defined_symbols=words,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        character_coverage=1.0,
        num_threads=1,
        minloglevel=2,
    )
    (WORK / "tokenizer.model").write_bytes(model.getvalue())


if __name__ == "__main__":
    import sentencepiece

    train()
    sp = sentencepiece.SentencePieceProcessor(model_file=str(WORK / "tokenizer.model"))
    for e in exchanges()["exchanges"]:
        print(sp.encode(e["reply"], out_type=str))
