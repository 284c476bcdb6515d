"""OpenCars: freely licensed cars (and chairs) from Debian packages, rendered in the SRN layout with depth."""
