"""Whether what a dataset stores is what its manifest says: rows encoded again in float32 and compared.

sampling.py      rows drawn at random, read chunk by chunk: captions, latents
reference.py     the manifest's encoders in float32, and one caption through them
comparison.py    two tensors: relative error and cosines
results.py       what was found of each row
hypotheses.py    what else stored values could be: another row, other bytes, other tokens, ...
states.py        ... other layers, other positions, other pads, out of the towers themselves
other_tokenizers.py    ... other ids
diagnosis.py     which of these fits, or whether it is rounding
encoder_check.py all of it, for one encoder
report.py        for people and for machines
source_images.py images of rows, read again from the tars they were encoded from
latent_check.py  rows of latents, compared with these images
latent_report.py for people and for machines
"""
