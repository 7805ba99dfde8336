// What scrolls sideways can be reached and scrolled with the keyboard; what doesn't is no stop on the way.
const mayScroll = "pre, .table-wrapper, .math-wrapper, div.math, div.cell_output .text_html";

function markScrolling() {
  for (const box of document.querySelectorAll(mayScroll)) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else if (box.hasAttribute("tabindex")) box.removeAttribute("tabindex");
  }
}

addEventListener("load", markScrolling);
addEventListener("resize", markScrolling);
addEventListener("toggle", markScrolling, true);

// On paper every fold is open.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("article details:not([open]):not(.colab)")];
  for (const fold of opened) fold.open = true;
});
addEventListener("afterprint", () => {
  for (const fold of opened) fold.open = false;
});
