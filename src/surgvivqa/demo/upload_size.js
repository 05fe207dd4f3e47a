// Refuses files that are too large before anything is sent, with a sentence in the page instead of Gradio's pop-up.
for (const kind of ["change", "drop"]) {
  document.addEventListener(
    kind,
    (event) => {
      const files = (kind === "drop" ? event.dataTransfer : event.target).files;
      if (!event.target.closest?.("#upload") || !files?.length) return;
      const notice = document.getElementById("sv-size");
      const large = [...files].find((file) => file.size > Number(notice.dataset.most));
      notice.hidden = !large;
      if (!large) return;
      notice.textContent =
        `${large.name} has ${Math.ceil(large.size / 1e6)} MB, but at most ${notice.dataset.most / 1e6} MB are taken ` +
        "here; drop a shorter or smaller file.";
      event.preventDefault();
      event.stopImmediatePropagation();
      if (kind === "change") event.target.value = "";
    },
    true,
  );
}
