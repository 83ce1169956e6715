"""The networks, in plain torch: generator and discriminator of pairs, latent code generator, video discriminators."""
