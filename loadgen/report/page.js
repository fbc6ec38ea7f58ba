// Shows the values of all charts at the time under the pointer. Without it nothing is missing: they stand in the tables.
const charts = [...document.querySelectorAll(".chart")].map((figure) => ({
  plot: figure.querySelector(".plot"),
  cursor: figure.querySelector(".cursor"),
  at: figure.querySelector(".at"),
  values: [...figure.querySelectorAll(".names b")],
  data: JSON.parse(figure.querySelector("script").textContent),
}));
const two = (n) => String(n).padStart(2, "0");
const clock = (t) => (t < 60 ? Math.round(t) + " s" : Math.floor(t / 60) + ":" + two(Math.round(t) % 60));
const text = (v) => (v === null ? "–" : v >= 100 ? Math.round(v).toLocaleString("en") : v >= 10 ? v.toFixed(1) : v.toFixed(2));

function show(share) {
  for (const c of charts) {
    const times = c.data.t;
    const time = share * c.data.end;
    let i = times.findIndex((t) => t >= time);
    if (i < 0) i = times.length - 1;
    c.cursor.hidden = false;
    c.cursor.style.left = 100 * share + "%";
    c.at.textContent = clock(times[i]);
    c.values.forEach((b, n) => (b.textContent = text(c.data.v[n][i])));
  }
}
function hide() {
  for (const c of charts) {
    c.cursor.hidden = true;
    c.at.textContent = "";
    for (const b of c.values) b.textContent = "";
  }
}
for (const { plot } of charts) {
  plot.addEventListener("pointermove", (e) => {
    const box = plot.getBoundingClientRect();
    show(Math.min(1, Math.max(0, (e.clientX - box.left) / box.width)));
  });
  plot.addEventListener("pointerleave", hide);
}
