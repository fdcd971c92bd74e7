"""`flaxmill report`: runs as one HTML page that needs nothing else.

run_files           what is read of a run
metric_columns      metrics.jsonl as columns of numbers, and what happened at some steps
predictions         which label was taken for which, and some examples
thinning            fewer points of a curve, its extremes among them
charts              which numbers are drawn together, and as what
config_differences  what distinguishes the configs of runs
sections            the parts that need no script
fragments           pieces of HTML, safe with any text
page                the page: read this first

page.css    how it looks
curves.js   numbers for curves: decoding, smoothing, scales and their ticks
chart.js    a chart: axes, lines, marks, a cursor and its readings
controls.js what a reader can change, and the start of all
"""
