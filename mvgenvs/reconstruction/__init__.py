"""From views of an object to things that other programs open: a textured mesh, a point cloud, Gaussian splats.

`observations` are views with depth; `fusion` and `surface` make a surface of them, `texture` paints it from the views;
`points` and `splats` need depth alone; `writing` knows the files. `mvgenvs.exporting` does this for finished results.
"""
