"""mvgan trains MotionVideoGAN on a Ray cluster, from raw videos to a video generator.

Names, fixed once for the whole code (paper: Zhu et al., MotionVideoGAN, IEEE TMM 2023):

| paper            | here             | shape                                    |
|------------------|------------------|------------------------------------------|
| z                | `z`              | [n, z_dim]                               |
| omega            | `w`              | [n, w_dim]; per layer `ws` [n, num_ws, w_dim] |
| omega_b, omega_f | `codes.backward`, `codes.forward` | [num_codes, w_dim or num_ws * w_dim]; they edit the former, the latter frame |
| k                | `interval`       | frames between the two frames of a pair  |
| M_t              | `coefficients`   | [n, num_codes]                           |
| J, J^T J         | `jac`, `gram`    | [outputs, w_dim], [w_dim, w_dim]         |
| lambda, gamma    | `lam`, `r1_gamma` |                                         |

Frame pairs are `[n, 2, 3, h, w]` and clips `[n, t, 3, h, w]`: uint8 in data, [-1, 1] in networks.
Progress is counted in images (pairs) or clips, never in steps.
"""

__version__ = "0.1.0"
