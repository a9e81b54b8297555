"""Models that were not trained here: what a file of someone else's takes, said once, and made ours.

declaration.py    layout, channels, range, mean, std, size: the file beside the file
wrap.py           the file's graph as one that takes x in [0, 1] and gives logits
images_in.py      the nodes before it
logits_out.py     the nodes after it
derive.py         both graphs of a file, cached, and what is to be said of them
slope.py          a gradient against finite differences
torch_module.py   `module:function`, a torch network behind the Classifier protocol
"""
