"""The web form of a bundle: a folder of static files that restores in the browser.

    bundle ─ web_graph ─► ONNX of float frames ─┐
    npm package ─ browser_runtime ─► WASM, gzip ─┼─► write_page ─► folder ─ serve_page ─► browser
    mirnet_edge.pages ─► HTML, CSS, scripts ─────┘

The page loads nothing from elsewhere, and sends nothing anywhere: images stay in the browser.
"""
