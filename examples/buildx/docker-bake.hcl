# The same for `docker buildx bake`. All targets export to one tag: cachectld merges them, where another registry would keep the
# last one only.
#
#   cachectl buildx-setup --builder cachectl --run
#   docker buildx bake --builder cachectl -f examples/buildx/docker-bake.hcl
variable "CACHE" {
  default = "127.0.0.1:5000/team/app:cache"
}

group "default" {
  targets = ["app", "test"]
}

target "cached" {
  cache-from = [{ type = "registry", ref = CACHE }]
  cache-to = [{ type = "registry", ref = CACHE, mode = "max", "ignore-error" = "true" }]
}

target "app" {
  inherits  = ["cached"]
  platforms = ["linux/amd64", "linux/arm64"]
  tags      = ["team/app"]
}

target "test" {
  inherits = ["cached"]
  target   = "test"
  output   = ["type=cacheonly"]
}
