"""The web page over a run table: `scaling dashboard`.

    serve(source)         serve the page until stopped; see `analysis.dashboard.serve`

The server process holds bytes and hands them out. Reading a store and fitting laws are jobs of two child
processes (`worker`), which end when they have nothing to do: so the server answers while a fit runs, stays
small, and keeps the last state when a store is lost. The page (static/) is plain JavaScript over the
plotly.js of the plotly wheel; the exported file is the same page with its data inside.
"""
