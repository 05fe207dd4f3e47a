// Body of the function that runs for each HTML part of the page; `element` is the part, `trigger` sends an event.
// Clicks on buttons and moments send what they stand for; the strip is also read by pointing and by keys.
const moments = () => [...element.querySelectorAll(".sv-strip g")];

const read = (moment) => {
  for (const other of moments()) other.classList.toggle("sv-read", other === moment);
  const readout = element.querySelector(".sv-readout");
  if (moment && readout) readout.textContent = moment.dataset.words;
};

element.addEventListener("click", (event) => {
  const chosen = event.target.closest("[data-pick], [data-question], [data-at]");
  if (!chosen || !element.contains(chosen)) return;
  if (chosen.matches("g")) read(chosen);
  trigger("select", { ...chosen.dataset });
});

element.addEventListener("pointermove", (event) => {
  const moment = event.target.closest(".sv-strip g");
  if (moment) read(moment);
});

element.addEventListener("keydown", (event) => {
  if (!event.target.matches(".sv-strip")) return;
  const all = moments();
  const at = all.findIndex((moment) => moment.classList.contains("sv-read"));
  const to = {
    ArrowRight: Math.min(at + 1, all.length - 1),
    ArrowLeft: Math.max(at - 1, 0),
    Home: 0,
    End: all.length - 1,
  }[event.key];
  if (to !== undefined) {
    read(all[to]);
    event.preventDefault();
  } else if (event.key === "Enter" && at >= 0) {
    trigger("select", { ...all[at].dataset });
    event.preventDefault();
  }
});
