// Runs before the first paint, so that a page set to dark never flashes white.
document.documentElement.dataset.theme = localStorage.getItem("fledge.theme") ?? "auto";
