"""Networks of infinite width: closed-form kernels and their ensembles."""
