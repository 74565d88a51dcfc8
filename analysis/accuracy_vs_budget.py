# %% [markdown]
# # Accuracy against budget
#
# What does a method's memory cost in score? Each panel is a task, each line a method; the budget is the mean
# number of KV entries kept per layer and KV head, and it shrinks to the right. The dashed line is FullKV,
# which evicts nothing: a method is worth its memory as far to the right as it stays on that line. Bands are
# 95% intervals over the documents.

# %% tags=["parameters"]
results = "../results/tiny"  # a folder that `sparsemm sweep` wrote, relative to this notebook

# %%
# %matplotlib inline
import sparsemm
from sparsemm.figures import accuracy_vs_budget

accuracy_vs_budget(sparsemm.load_results(results))
