"""The motion space of a pair generator: stage 2 of MotionVideoGAN (section III.B).

`jacobian` takes the Gram matrices of both frames (eq. 3-5), `rpca` splits them into a low-rank and a sparse part, `codes`
turns two of them into motion codes, of which the backward ones edit the former frame and the forward ones the latter, and
`factorize` is stage 2 as plain functions: one latent, then all of them together. `codes.edit_ratios` measures on fresh latents
how well a code leaves the other frame alone. Each latent has the Grams of w, or in W+ those of each layer's w (`codes.space`).
"""
