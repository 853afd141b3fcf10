//! Chromium without a window, driven by WebDriver as a person would use it. Never outlives its value; its profile and
//! downloads are its own, and nothing of it but its pages goes out.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};
use thirtyfour::{
    LoggingPrefsLogLevel, common::capabilities::chrome::ChromeCapabilities, prelude::*,
};
use tokio::runtime::Runtime;

use crate::support::wait_for;

/// Chromium as root, without a screen, that asks nobody for anything.
const ARGUMENTS: [&str; 10] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1700,1000",
];

#[derive(Debug)]
pub(crate) struct Browser {
    runtime: Runtime,
    driver: Option<WebDriver>,
    process: Child,
    folder: tempfile::TempDir,
}

impl Browser {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = lines
            .find_map(|line| {
                let line = line.unwrap();
                let (_, port) = line.split_once("started successfully on port ")?;
                Some(port.trim_end_matches('.').to_owned())
            })
            .expect("chromedriver says its port");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let mut browser = Self { runtime: runtime.unwrap(), driver: None, process, folder };
        let connect = WebDriver::new(format!("http://127.0.0.1:{port}"), browser.capabilities());
        browser.driver = Some(browser.runtime.block_on(connect).unwrap());
        browser
    }

    fn capabilities(&self) -> ChromeCapabilities {
        let mut wanted = DesiredCapabilities::chrome();
        for argument in ARGUMENTS {
            wanted.add_arg(argument).unwrap();
        }
        let profile = self.folder.path().join("profile");
        wanted.add_arg(&format!("--user-data-dir={}", profile.display())).unwrap();
        fs::create_dir(self.downloads()).unwrap();
        let downloads = json!({ "download.default_directory": self.downloads() });
        wanted.add_experimental_option("prefs", downloads).unwrap();
        wanted.set_browser_log_level(LoggingPrefsLogLevel::All).unwrap();
        wanted
    }

    fn driver(&self) -> &WebDriver {
        self.driver.as_ref().unwrap()
    }

    fn downloads(&self) -> PathBuf {
        self.folder.path().join("downloads")
    }

    pub(crate) fn open(&self, url: &str) {
        self.runtime.block_on(self.driver().goto(url)).unwrap();
    }

    /// What an expression of the page's own language is.
    pub(crate) fn look(&self, expression: &str) -> Value {
        let script = format!("return {expression};");
        let answer = self.runtime.block_on(self.driver().execute(script, Vec::new())).unwrap();
        answer.json().clone()
    }

    /// Waits until an expression is true.
    pub(crate) fn wait_until(&self, expression: &str) {
        wait_for(expression, || (self.look(expression) == true).then_some(()));
    }

    /// Clicks what a person would: only what is visible and not covered.
    pub(crate) fn click(&self, xpath: &str) {
        wait_for(xpath, || {
            let click = async { self.driver().find(By::XPath(xpath)).await?.click().await };
            self.runtime.block_on(click).ok()
        });
    }

    /// Replaces the text of a field.
    pub(crate) fn write(&self, css: &str, text: &str) {
        let write = async {
            let field = self.driver().find(By::Css(css)).await?;
            field.clear().await?;
            field.send_keys(text).await
        };
        self.runtime.block_on(write).unwrap();
    }

    /// Waits for a finished download whose name ends so.
    pub(crate) fn downloaded(&self, extension: &str) -> PathBuf {
        let downloads = self.downloads();
        wait_for("the download", || {
            let files = fs::read_dir(&downloads).unwrap().map(|file| file.unwrap().path());
            let mut ended = files.filter(|path| path.extension().is_some_and(|e| e == extension));
            ended.next()
        })
    }

    pub(crate) fn screenshot(&self, file: &Path) {
        self.runtime.block_on(self.driver().screenshot(file)).unwrap();
    }

    /// What the console and the browser's own checks (content security policy, failed requests) said.
    pub(crate) fn console(&self) -> Vec<String> {
        let entries = self.runtime.block_on(self.driver().browser_log()).unwrap();
        entries.iter().map(|entry| format!("{entry:?}")).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(driver) = self.driver.take() {
            self.runtime.block_on(driver.quit()).ok();
        }
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
