# This recipe synthesises its own speech: no corpus is needed.
