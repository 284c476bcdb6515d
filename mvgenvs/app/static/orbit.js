// Turns the orbit by dragging on it or by its slider. Listens on the document, since orbits come and go.
(() => {
  const STEP = 9; // pixels of dragging from one view to the next
  let held = null;

  const show = (orbit, index) => {
    const views = orbit.querySelectorAll("img");
    const wanted = ((index % views.length) + views.length) % views.length;
    views.forEach((view, k) => view.classList.toggle("mv-on", k === wanted));
    orbit.querySelector("input").value = wanted;
  };

  document.addEventListener("pointerdown", (event) => {
    const stage = event.target.closest(".mv-stage");
    if (!stage) return;
    const orbit = stage.closest(".mv-orbit");
    held = { orbit, x: event.clientX, from: Number(orbit.querySelector("input").value) };
    stage.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  document.addEventListener("pointermove", (event) => {
    // The object follows the hand: dragged to the right, its left side comes forward.
    if (held) show(held.orbit, held.from - Math.round((event.clientX - held.x) / STEP));
  });
  for (const end of ["pointerup", "pointercancel"]) document.addEventListener(end, () => (held = null));
  document.addEventListener("input", (event) => {
    const orbit = event.target.closest(".mv-orbit");
    if (orbit) show(orbit, Number(event.target.value));
  });
})();
