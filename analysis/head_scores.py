# %% [markdown]
# # Head scores
#
# Which query heads see? A head scores when, while the model transcribes a page, its most attended position
# lies in the region of the page that is being read. Each square is one head and its share of the whole score;
# the best heads are ringed, and the line below says how much of the score they hold. SparseMM gives these
# heads more of the cache.

# %% tags=["parameters"]
file = "../results/head_scores/tiny.safetensors"  # written by `sparsemm heads`, relative to this notebook

# %%
# %matplotlib inline
from pathlib import Path

from sparsemm.figures import head_concentration, head_scores
from sparsemm.heads import HeadScores
from sparsemm.heads.concentration import rank_agreement, top_share

scores, title = HeadScores.load(file), f"head scores of {Path(file).stem}"
head_scores(scores.scores, title=title)

# %% [markdown]
# How concentrated are they, and how many documents does it take to know them? Left: the share of the score
# that the best heads hold; on the dotted line all heads would be equal. Right: how well the scores of a few
# documents order the heads, as Spearman's rank correlation with all documents and with those that were not
# among the few. Bands are 95% intervals.

# %%
head_concentration(top_share(scores), rank_agreement(scores), title=title)
