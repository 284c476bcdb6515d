"""The browser app, `python -m mvgenvs.app`.

`studio.py` does the work and knows no page; `layout.py` and `handlers.py` are the page, `markup.py` its pictures,
`server.py` serves it. Only these three import gradio, the extra `app`.
"""
