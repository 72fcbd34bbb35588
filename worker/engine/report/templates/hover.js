"use strict";
/* Shows what a mark of a plot stands for when it is pointed at or focused: its aria-label, as text. */
(() => {
  const tip = document.getElementById("tip");
  const labelled = (target) => {
    const mark = target instanceof Element ? target.closest('svg [aria-label][role="graphics-symbol"]') : null;
    return mark && mark.getAttribute("aria-roledescription") !== "axis" && mark.tagName !== "g" ? mark : null;
  };
  const show = (mark) => {
    tip.textContent = mark.getAttribute("aria-label");
    tip.hidden = false;
    const box = mark.getBoundingClientRect(), width = tip.offsetWidth, height = tip.offsetHeight;
    const left = Math.min(Math.max(8, box.left + box.width / 2 - width / 2), document.documentElement.clientWidth - width - 8);
    const above = box.top - height - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 4 ? above : box.bottom + 8}px`;
  };
  const hide = () => { tip.hidden = true; };
  document.addEventListener("pointerover", (event) => {
    const mark = labelled(event.target);
    if (mark) show(mark); else hide();
  });
  document.addEventListener("focusin", (event) => {
    const mark = event.target.querySelector?.('[role="graphics-symbol"]') ?? null;
    if (mark && event.target.closest("svg")) show(mark); else hide();
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  addEventListener("scroll", hide, { passive: true });
  /* On paper everything is unfolded. */
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
  /* A link to a row of a folded table unfolds it first. */
  addEventListener("hashchange", () => {
    const row = document.getElementById(location.hash.slice(1)), folded = row?.closest("details");
    if (folded) { folded.open = true; row.scrollIntoView({ block: "center" }); }
  });
})();
