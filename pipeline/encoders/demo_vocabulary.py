"""The small T5 tokenizer of the demo: a unigram vocabulary of characters, word parts and words of image captions."""

from __future__ import annotations

import math

from transformers import T5TokenizerFast

# Most frequent first. A piece's score is the logarithm of its Zipf share, so that whole words win over their letters.
_WORDS = """a the of and in with on is to at by for from an it as this that two its near over are one has her his under
man woman photo image picture person people dog cat white black red blue green yellow brown small large young old little
sitting standing wearing holding walking riding looking playing eating flying running lying background front side top
street city house building room table chair window door wall floor grass tree trees sky water beach ocean sea river lake
mountain mountains snow sun sunset night day light dark bright shirt hat dress jacket hair face eyes hand hands head
car bus train truck bike bicycle motorcycle boat plane horse bird birds sheep cow elephant bear flower flowers food
plate pizza cake fruit cup glass bottle kitchen bed couch phone computer book paper sign clock ball game field park
road bridge boy girl child children baby group men women crowd player painting drawing illustration portrait
landscape close up view scene art style color colorful abstract vintage modern beautiful next some there three several
while behind between around through against other into out down off their he she they who which has been very
wooden metal stone gold silver pink purple orange gray grey round square long short tall open closed empty full
digital render poster logo design pattern texture vector isolated text hello world"""
_PARTS = """s ed ing er ly es tion ment al ness ic y e en est th in on an re or ar at st nd te le it is ou ea ch sh ck
ll tt ss oo ee un de con pro ex im ab ac ad am ap as be bo br ca ce ci co cr cu da di do dr du el em ev fa fe fi fl fo
fr ga ge gi gl go gr ha he hi ho hu ja jo ke ki la li lo lu ma me mi mo mu na ne ni no nu of op pa pe ph pi pl po pr qu
ra ri ro ru sa sc se si sk sl so sp su ta ti to tr tu ul ur us ut va ve vi vo wa we wh wi wo"""
# ASCII, Latin-1, Greek, Cyrillic, quotation marks, Hiragana, Katakana.
_RANGES = (
    (0x21, 0x7E),
    (0xA1, 0xFF),
    (0x386, 0x3CE),
    (0x401, 0x45F),
    (0x2018, 0x201E),
    (0x3041, 0x3096),
    (0x30A1, 0x30FA),
)


def demo_t5_tokenizer() -> T5TokenizerFast:
    """A T5 tokenizer of about 900 pieces with T5's special ids (pad 0, EOS 1, unknown 2).

    Any text can be tokenized: characters without a piece become the unknown id.
    """
    characters = [chr(code) for first, last in _RANGES for code in range(first, last + 1)]
    ranked = ["▁", *(f"▁{word}" for word in _WORDS.split()), *_PARTS.split()]
    pieces = dict.fromkeys([*ranked, *characters])
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    # Rounded, since the last bit of a logarithm is the business of the platform's libm.
    vocab += [(piece, round(-math.log(10.0 * (rank + 1)), 4)) for rank, piece in enumerate(pieces)]
    return T5TokenizerFast(vocab=vocab, extra_ids=0)
