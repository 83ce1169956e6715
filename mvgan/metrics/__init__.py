"""Distances between real and generated frames.

`moments` gathers the mean and covariance of features, in parts that can be merged. `frechet` is the Frechet distance of two
such sets, with its bootstrap error; `inception_score` that of class probabilities. `protocol` says which clips they are taken
over. `features` are those of seeded, fixed random networks on frame pairs and on clips: they need no download and follow
training, but they are not the features of FID or FVD and give no number to compare with a paper.
"""
