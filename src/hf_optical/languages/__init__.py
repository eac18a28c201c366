from .adapters import activate, active_language, add_adapter, default_lora_config, languages, remove
from .pack import LanguagePack


__all__ = ["LanguagePack", "activate", "active_language", "add_adapter", "default_lora_config", "languages", "remove"]
