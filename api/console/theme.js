// Sets the theme before anything is drawn. `system` follows the machine, even while the page is open.
{
  const system = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const chosen = localStorage.getItem("citybeat.theme") ?? "system";
    document.documentElement.dataset.theme = chosen === "system" ? (system.matches ? "dark" : "light") : chosen;
    document.dispatchEvent(new Event("citybeat:theme"));
  };
  window.setTheme = (chosen) => {
    localStorage.setItem("citybeat.theme", chosen);
    apply();
  };
  system.addEventListener("change", apply);
  apply();
}
