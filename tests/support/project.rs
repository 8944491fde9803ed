//! Projects that are built into images from nothing: a static busybox is the only program in them.
use std::fs;
use std::path::Path;

use super::scratch::Scratch;
use super::tools;

/// Two stages that need nothing of each other, and one that takes from both. Each RUN says `executed`, so that a build's
/// log tells whether it ran, and writes files that are the same wherever and whenever it runs.
const STAGES: &str = r#"FROM scratch AS base
COPY busybox /bin/busybox
SHELL ["/bin/busybox", "sh", "-c"]
RUN echo executed && /bin/busybox mkdir /out /tmp && /bin/busybox --install -s /bin

FROM base AS left
COPY left /src/left
RUN echo executed && sha256sum /src/left > /out/sum && seq 1 200000 > /out/numbers
RUN echo executed && wc -l /out/numbers > /out/lines

FROM base AS right
COPY right /src/right
RUN echo executed && sha256sum /src/right > /out/sum

FROM scratch AS app
COPY --from=left /out/ /left/
COPY --from=right /out/ /right/
"#;

/// A build context with its Dockerfile.
#[derive(Debug)]
pub(crate) struct Project(Scratch);

impl Project {
    /// The stages `left`, `right` and `app`, of eight steps that can be cached.
    pub(crate) fn stages() -> Self {
        let project = Self::with(STAGES);
        project.write("left", b"the left hand\n");
        project.write("right", b"the right hand\n");
        project
    }

    /// One step that copies `size` bytes that do not compress: a layer that takes its time.
    pub(crate) fn heavy(size: usize) -> Self {
        let project = Self::with("FROM scratch\nCOPY blob /blob\n");
        let mut bytes = vec![0; size];
        fastrand::Rng::with_seed(11).fill(&mut bytes);
        project.write("blob", &bytes);
        project
    }

    /// A context that holds busybox and this Dockerfile.
    pub(crate) fn with(dockerfile: &str) -> Self {
        let dir = Scratch::new("context");
        fs::copy(tools::built("busybox"), dir.path().join("busybox")).expect("a new file");
        fs::write(dir.path().join("Dockerfile"), dockerfile).expect("a new file");
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Puts `bytes` into the context.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path().join(name), bytes).expect("our own folder");
    }
}
