# %% [markdown]
# # What heads look at
#
# A model answers a question about a page, and the attention of each generated token is laid over the page:
# the heads of highest score above, those of lowest below. The visual heads look at the value that is asked
# for; the others look elsewhere, or hardly at the image at all: the percentage is the share of its attention
# that a head gives to it.

# %% tags=["parameters"]
model = "tiny"  # a name of `sparsemm list models`
file = "../results/head_scores/tiny.safetensors"  # its head scores, relative to this notebook
kind, seed, number = "table", 5, 0  # of the page, and of the question among those that can be asked about it

# %%
# %matplotlib inline
from sparsemm.configs import read
from sparsemm.documents import make_page
from sparsemm.figures import attention_on_image
from sparsemm.heads import HeadScores
from sparsemm.heads.attention import attention_maps
from sparsemm.heads.standing import top_heads
from sparsemm.models.loading import load

scores, page = HeadScores.load(file).scores, make_page(seed, kind=kind)
checkpoint = load(read("model", model))
rows = {"visual heads": top_heads(scores, 4), "other heads": top_heads(-scores, 4)}
heads = [head for row in rows.values() for head in row]
question, options = page.questions[number].text, checkpoint.images_kwargs
attention = attention_maps(checkpoint.model, checkpoint.processor, page.image, question, heads, **options)
attention_on_image(attention, rows)
