"""What the page does at each event: the studio's answers as values of the page's components."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from mvgenvs.app import markup
from mvgenvs.app.studio import SHOWN_SIDE, Choices, Lifted, Orbit, Studio, Subject, discard
from mvgenvs.errors import UserError

_INTERNAL = "This should not have failed: the terminal in which the app runs says more."
_log = logging.getLogger(__name__)


def explained(work: Callable[[], Any], otherwise: Callable[[str], Any], *paths: str | None) -> Any:
    """What `work` returns; if it fails, `otherwise` of a sentence. Faults of ours are logged in full."""
    try:
        return work()
    except UserError as error:
        return otherwise(markup.sentence(error, *paths))
    except Exception:
        _log.exception("a request failed")
        return otherwise(_INTERNAL)


class Handlers:
    """The events of all pages; each page hands in what it keeps."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    def read(self, photo: str | None, matte: str, mask: str | None) -> tuple[Any, ...]:
        """Subject, cut and notes, azimuth, elevation."""
        if photo is None or (matte == "mask" and mask is None):
            hint = (
                "" if photo is None else markup.status("Drop a mask: grey, of the photo's size, white on the object.")
            )
            return None, hint, gr.skip(), gr.skip()

        def work() -> tuple[Any, ...]:
            subject = self.studio.read(photo, matte, mask)
            cut = subject.view.image.copy()
            cut.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
            pictures = [("photo", subject.photo), ("cut and framed", markup.on_checkerboard(np.array(cut)))]
            shown = markup.figures(pictures) + markup.notes(subject.view.notes)
            return subject, shown, round(subject.azimuth), round(subject.elevation)

        return explained(work, lambda text: (None, markup.error(text), gr.skip(), gr.skip()), photo, mask)

    def look(
        self,
        subject: Subject | None,
        azimuth: Any,
        elevation: Any,
        views: Any,
        height: Any,
        before: Lifted | None,
    ) -> tuple[Any, ...]:
        """The NeRF lifted with the camera that is set, its renderings, and the map of the orbit."""
        if subject is None:
            return None, "", ""

        def work() -> tuple[Any, ...]:
            lifted = self.studio.lift(subject, azimuth, elevation, before)
            pictures, drawn = self.studio.look(lifted, Choices.asked("sliding", views, height, 0, 0))
            path = [("the photo's camera is green, those of the orbit go from blue to orange", drawn)]
            return lifted, markup.figures(pictures), markup.figures(path, "mv-map")

        return explained(work, lambda text: (None, markup.error(text), ""))

    def turn(self, azimuth: Any) -> Any:
        """The opposite direction, in [-180, 180]."""
        return azimuth - 180 if azimuth > 0 else azimuth + 180

    def generate(
        self,
        subject: Subject | None,
        azimuth: Any,
        elevation: Any,
        plan: Any,
        views: Any,
        height: Any,
        steps: Any,
        seed: Any,
        before: Orbit | None,
    ) -> Iterator[tuple[Any, ...]]:
        """Orbit, status, strip, turntable, video, downloads, mesh button and mesh; the last ones at the end."""
        rest = (gr.skip(),) * 5
        if subject is None:
            yield gr.skip(), markup.error("Drop a photo first, or take the example."), gr.skip(), *rest
            return
        finished = 0
        try:
            choices = Choices.asked(plan, views, height, steps, seed)
            yield gr.skip(), markup.status("Lifting the NeRF …"), markup.strip({}, views), *rest
            with contextlib.closing(self.studio.generate(subject, azimuth, elevation, choices)) as reports:
                for report in reports:
                    if isinstance(report, Orbit):
                        discard(before)
                        yield report, *self._finished(report)
                        return
                    finished = finished if report.views is None else len(report.views)
                    shown = gr.skip() if report.views is None else markup.strip(report.views, views)
                    yield gr.skip(), markup.progress(report, views, finished), shown, *rest
        except UserError as error:
            yield gr.skip(), markup.error(markup.sentence(error)), gr.skip(), *rest
        except Exception:
            _log.exception("an orbit failed")
            yield gr.skip(), markup.error(_INTERNAL), gr.skip(), *rest

    def _finished(self, orbit: Orbit) -> tuple[Any, ...]:
        """All that shows an orbit."""
        said = f"{len(orbit.views)} views in {markup.duration(orbit.seconds)}. Drag the picture to turn it."
        return (
            markup.status(said),
            markup.strip(dict(enumerate(orbit.views)), len(orbit.views)),
            markup.turntable(orbit),
            str(orbit.folder / "orbit.mp4"),
            [str(path) for path in orbit.files],
            gr.update(interactive=True),
            None,
        )

    def mesh(self, orbit: Orbit | None) -> tuple[Any, ...]:
        """Status, the mesh, and the downloads with it."""
        if orbit is None:
            return markup.error("Generate an orbit first: the mesh is made of its views."), None, gr.skip()

        def work() -> tuple[Any, ...]:
            path = self.studio.mesh(orbit)
            return markup.status("The mesh is below."), str(path), [str(each) for each in orbit.files]

        return explained(work, lambda text: (markup.error(text), None, gr.skip()))
