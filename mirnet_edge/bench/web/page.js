// Before | after: the slider clips the upper image, the lists select the images.
for (const shot of document.querySelectorAll(".shot")) {
  const box = shot.querySelector(".compare");
  const cut = (value) => box.style.setProperty("--cut", value + "%");
  box.querySelector("input").addEventListener("input", (event) => cut(event.target.value));
  for (const side of ["left", "right"]) {
    const list = shot.querySelector("select." + side);
    list.addEventListener("change", () => {
      const chosen = list.selectedOptions[0];
      box.querySelector("img." + side).src = document.getElementById(chosen.value).src;
      box.querySelector("em." + side).textContent = chosen.textContent;
    });
  }
}
