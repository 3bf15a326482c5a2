// Runs before the first paint, so that a page set to dark never flashes white. Where site data is blocked, touching it throws.
try {
  document.documentElement.dataset.theme = localStorage.getItem("fledge.theme") ?? "auto";
} catch {
  document.documentElement.dataset.theme = "auto";
}
