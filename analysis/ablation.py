# %% [markdown]
# # What the heads are worth
#
# Without its visual heads, does the model still read? Heads of highest score are switched off, or as many
# others drawn at random; the cache is full. The faster the first line falls below the second, the more the
# scored heads are those that see.

# %% tags=["parameters"]
masked = "../results/mask_ablation"  # a sweep with ablation=, relative to this notebook
results = "../results/tiny"  # a sweep with method=[sparsemm,sparsemm_layer_mean,sparsemm_flat]

# %%
# %matplotlib inline
from pathlib import Path

import pandas as pd

import sparsemm
from sparsemm.figures import differences_vs_budget, mask_ablation

mask_ablation(sparsemm.load_results(masked))

# %% [markdown]
# Heads or layers? SparseMM gives each head its own budget. The dashed line is its gain over equal budgets
# (`sparsemm` minus `sparsemm_flat`); the other two are its parts and add up to it: what each layer's mean
# score already gives (`sparsemm_layer_mean` minus `sparsemm_flat`), and what the heads' own scores add
# (`sparsemm` minus `sparsemm_layer_mean`). Bands are 95% intervals, paired over the documents.

# %%
differences_vs_budget(pd.read_csv(Path(results, "comparisons.csv")))
