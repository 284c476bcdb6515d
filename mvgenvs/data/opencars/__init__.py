"""OpenCars: freely licensed cars (and chairs) out of Debian packages, rendered in the SRN layout with depth."""
