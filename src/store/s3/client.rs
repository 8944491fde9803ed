//! The SDK's client, set up once: credentials, region, endpoint, TLS, proxies, and none of its own retries.

use std::time::Duration;

use aws_config::{
    BehaviorVersion, Region, SdkConfig, environment::EnvironmentVariableRegionProvider,
    meta::region::RegionProviderChain, profile::ProfileFileRegionProvider,
};
use aws_sdk_s3::{
    Client,
    config::{
        Builder, Credentials, RequestChecksumCalculation, ResponseChecksumValidation,
        RuntimeComponents, SharedHttpClient, StalledStreamProtectionConfig, retry::RetryConfig,
        timeout::TimeoutConfig,
    },
    presigning::PresigningConfig,
};
use aws_smithy_http_client::{
    Connector,
    proxy::ProxyConfig,
    tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode},
};

use super::{
    Keys,
    account::Accounts,
    cap,
    config::{Checksum, Config},
    environment,
    foreign::Recognized,
    traced::Traced,
    words::chain,
};
use crate::{
    store::{
        error::{Error, Result},
        net::Common,
        server_time::ServerClock,
    },
    task,
};

/// S3 closes idle connections after some 20 s; using one that is just being closed costs a round trip.
const POOL_IDLE: Duration = Duration::from_secs(15);
/// The region that nearly all stores other than AWS accept.
const ANY_REGION: &str = "us-east-1";

/// A client, and facts about its destination.
pub(super) struct Connection {
    pub(super) client: Client,
    /// Whether single uploads carry the digest as `x-amz-checksum-sha256`.
    pub(super) sends_sha256: bool,
    /// The host that requests are sent to, if it is not AWS's own.
    pub(super) other_host: Option<String>,
    /// The variable with the proxy in use.
    pub(super) proxy: Option<&'static str>,
}

/// Builds the client; sends requests only to servers that provide the region of credentials.
pub(super) async fn connect(
    bucket: &str,
    config: &Config,
    common: &Common,
    clock: &ServerClock,
    keys: Option<Keys>,
) -> Result<Connection> {
    let http = http_client(common).await?;
    let sdk = sdk_config(config, common, &http, keys).await;
    if sdk.region().is_none() {
        return Err(environment::no_region());
    }
    let mut s3 = environment::settings(&sdk)
        .retry_config(RetryConfig::disabled())
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(common.connect_timeout)
                .build(),
        )
        // Ours replaces it: see `net::patience`.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .interceptor(Recognized)
        .interceptor(clock.clone())
        .interceptor(Accounts)
        .interceptor(Traced);
    let no_host = |why: String| environment::no_host(config, &why);
    let aws = is_aws(&host(s3.clone(), bucket).await.map_err(no_host)?.1);
    if config.path_style.unwrap_or(!aws) {
        s3 = s3.force_path_style(true);
    }
    // Only now: with the bucket in the path it is another host, and `NO_PROXY` must match that one.
    let (is_https, host) = host(s3.clone(), bucket).await.map_err(no_host)?;
    if common.proxy_from_env && common.goes_direct(&host) {
        // For the store only: servers that provide credentials may still be behind the proxy.
        let direct = Common {
            proxy_from_env: false,
            ..common.clone()
        };
        s3 = s3.http_client(http_client(&direct).await?);
    }
    let checks = match config.checksum() {
        Checksum::Auto => aws,
        Checksum::Always => true,
        Checksum::Never => false,
    };
    let s3 = s3
        .request_checksum_calculation(if checks {
            RequestChecksumCalculation::WhenSupported
        } else {
            RequestChecksumCalculation::WhenRequired
        })
        // Received bytes are checked against digests, which is stronger than the store's checksums.
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    Ok(Connection {
        client: Client::from_conf(s3.build()),
        sends_sha256: checks,
        proxy: common.proxy(is_https, &host),
        other_host: (!aws).then_some(host),
    })
}

async fn sdk_config(
    config: &Config,
    common: &Common,
    http: &SharedHttpClient,
    keys: Option<Keys>,
) -> SdkConfig {
    // Dated, so that an update of the SDK does not change our behaviour.
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http.clone())
        // Set explicitly, since the SDK panics on variables and profiles that it does not understand.
        .retry_config(RetryConfig::standard())
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(common.connect_timeout)
                .build(),
        );
    if let Some(region) = &config.region {
        loader = loader.region(Region::new(region.clone()));
    } else if config.endpoint.is_some() {
        // Without the last provider of the default chain: querying the instance's metadata takes seconds if there is none.
        loader = loader.region(
            RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
                .or_else(ProfileFileRegionProvider::new())
                .or_else(Region::new(ANY_REGION)),
        );
    }
    if let Some(endpoint) = &config.endpoint {
        // Variants of AWS's own endpoints, which variables may select, do not exist for other endpoints.
        loader = loader.endpoint_url(endpoint).use_fips(false);
        loader = loader.use_dual_stack(false);
    }
    if config.anonymous() {
        loader = loader.no_credentials();
    } else if let Some(keys) = keys {
        let session = keys.session.map(|s| s.expose().to_owned());
        loader = loader.credentials_provider(Credentials::new(
            keys.id,
            keys.secret.expose(),
            session,
            None,
            "cachectl",
        ));
    }
    loader.load().await
}

/// One HTTP client for S3 and for servers that provide credentials: proxies and extra authorities apply to both.
async fn http_client(common: &Common) -> Result<SharedHttpClient> {
    let mut trust = TrustStore::default();
    let settings = common.clone();
    let extra = task::blocking(move || {
        // The SDK panics on an invalid certificate, so that is detected here.
        let mut roots = rustls::RootCertStore::empty();
        for certificate in settings.extra_ca_certificates()? {
            roots.add(certificate).map_err(|e| {
                Error::invalid(
                    "read CA bundle",
                    format!("it contains an unusable certificate: {e}"),
                )
            })?;
        }
        settings.extra_ca_pem()
    })
    .await?;
    if let Some(pem) = extra {
        trust = trust.with_pem_certificate(pem);
    }
    let tls = TlsContext::builder()
        .with_trust_store(trust)
        .build()
        .map_err(|e| invalid(chain(&e)))?;
    let proxy = if common.proxy_from_env {
        ProxyConfig::from_env()
    } else {
        ProxyConfig::disabled()
    };
    // The crate's builder for whole clients does not support proxies (1.5), the one for connectors does.
    Ok(cap::capped(
        aws_smithy_http_client::Builder::new().build_with_connector_fn(
            move |settings, components| {
                let mut connector = Connector::builder()
                    .tls_provider(Provider::Rustls(CryptoMode::Ring))
                    .tls_context(tls.clone())
                    .proxy_config(proxy.clone())
                    .pool_idle_timeout(POOL_IDLE);
                connector.set_connector_settings(settings.cloned());
                connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
                connector.build()
            },
        ),
    ))
}

/// The host that requests will be sent to, and whether over https, given everything that the SDK evaluates
/// (`AWS_ENDPOINT_URL_S3`, profiles …).
///
/// The SDK has no call for that, but a signed URL reveals it; with made-up keys that sends no request and grants nothing.
async fn host(s3: Builder, bucket: &str) -> std::result::Result<(bool, String), String> {
    let client = Client::from_conf(
        s3.credentials_provider(Credentials::new(
            "endpoint", "endpoint", None, None, "endpoint",
        ))
        .build(),
    );
    let when = PresigningConfig::expires_in(Duration::from_mins(1)).map_err(|e| chain(&e))?;
    let signed = client
        .get_object()
        .bucket(bucket)
        .key("endpoint")
        .presigned(when)
        .await
        .map_err(|e| chain(&e))?;
    let url = signed.uri();
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    // A variable may contain a name and a password.
    let host = authority.rsplit('@').next().unwrap_or_default();
    Ok((url.starts_with("https:"), host.to_ascii_lowercase()))
}

fn is_aws(host: &str) -> bool {
    let name = host.split(':').next().unwrap_or_default();
    [".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu"]
        .iter()
        .any(|suffix| name.ends_with(suffix))
}

fn invalid(why: String) -> Error {
    Error::invalid("open", why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_of_aws_are_aws() {
        for host in [
            "b.s3.eu-west-1.amazonaws.com",
            "s3.cn-north-1.amazonaws.com.cn",
            "s3.us-east-1.amazonaws.com:443",
        ] {
            assert!(is_aws(host), "{host}");
        }
        for host in ["127.0.0.1:9000", "amazonaws.com.example.org", "x.r2.dev"] {
            assert!(!is_aws(host), "{host}");
        }
    }

    #[tokio::test]
    async fn host_is_what_the_sdk_resolves() {
        let base = || {
            Builder::new()
                .behavior_version(BehaviorVersion::v2026_01_12())
                .region(Region::new("eu-west-1"))
        };
        assert_eq!(
            host(base(), "my-bucket").await.unwrap(),
            (true, "my-bucket.s3.eu-west-1.amazonaws.com".to_owned())
        );
        // No certificate of AWS's covers a dotted bucket's host name.
        assert_eq!(
            host(base(), "my.bucket").await.unwrap(),
            (true, "s3.eu-west-1.amazonaws.com".to_owned())
        );
        let other = base().endpoint_url("http://127.0.0.1:9000");
        assert_eq!(
            host(other.force_path_style(true), "my-bucket")
                .await
                .unwrap(),
            (false, "127.0.0.1:9000".to_owned())
        );
    }
}
