"""Relations over the global batch.

`terms` is the door: `relation_terms` and `contrastive`. `definition` says what a term is, `pictures` how a relation looks. How it is
computed, from the outside in: `tiled` runs over the tiles that `schedule` shares out and `travel` feeds, `field` keeps what rows know,
`tile` is where rows meet columns, `term` says what a term must answer there; `quick`, `careful`, `differences` and `sigmoid` answer;
`bodies` and `kernels` compute tiles. `moments` needs none.
"""
